"""People who label: a batch is queried, people label it in a page, a spreadsheet or Label Studio, and the next batch
learns from what they said.

A labelling project is a folder with project.json (project.py) and the journal labels.sqlite (store.py). The journal is
the truth: the model, the policy and every random draw are functions of it and of the seed, so there is nothing else to
lose.
"""
