"""Auxiliary networks have the sizes of the paper's Table 1, at 1 x 28 x 28."""

from __future__ import annotations

import pytest
from lada_al import all_methods, sizes
from lada_al.methods import rows

# The column Param.; combined rows there add rounded parts, so 306K is 301K + 5K.
TABLE_1 = {
    "bgadl": 13_909_482,
    "ent+adamixup": 5_152,
    "lada-ent-mix": 77_246,
    "lada-ent-stn-fixed": 5_520,
    "lada-ent-stn": 5_520,
    "lada-var-mix": 77_246,
    "lada-var-stn-fixed": 5_520,
    "lada-var-stn": 5_520,
    "vaal": 301_569,
    "lada-vaal-mix-fixed": 301_569,
    "lada-vaal-mix": 378_815,
    "lada-vaal-stn-fixed": 307_089,
    "lada-vaal-stn": 307_089,
    "ll4al": 123_905,
    "lada-ll4al-mix-fixed": 123_905,
    "lada-ll4al-mix": 201_151,
    "lada-ll4al-stn-fixed": 129_425,
    "lada-ll4al-stn": 129_425,
}


@pytest.mark.parametrize("name", rows("table1"))
def test_table_1(name: str) -> None:
    assert sizes.in_table(sizes.of_table_1(all_methods()[name])) == TABLE_1.get(name, 0)


def test_what_the_table_leaves_out_is_named() -> None:
    left_out = {
        n.name for name in ("vaal", "ent+adamixup") for n in sizes.of_table_1(all_methods()[name]) if not n.in_table
    }
    assert left_out == {"autoencoder", "policy networks"}


def test_generator_and_discriminator_of_bgadl_are_those_of_the_public_code() -> None:
    (network,) = sizes.of_table_1(all_methods()["bgadl"])
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in network.module.named_children()}
    assert counts == {"encoder": 660_968, "generator": 6_689_345, "discriminator": 6_559_169}
