"""Measures: numbers about payloads that rules read, each with units and files of its own beside the annotations.

`registry` says which a recipe needs, `stage` runs them, `texts`, `personal`, `pictures` and `scorers` measure; `spans`,
`repetition` and `marks` are what texts are measured with.
"""
