"""Studies: the same recipe with changes, over several seeds, with intervals and claims.

    StudySpec --cells--> Cell --running--> folders of runs --outcome--> study.json

A cell is one arm of the study with one seed, and runs commands of this program.
"""
