"""What a fine-tuned model has to beat: models of other kinds, fitted to the same rows.

Each has a file with `fit(train, validation, problem, *, metric=None, seed=0)`, which returns a `Baseline`. What it may
choose is chosen on the validation rows by `metric`, that of the fine-tuned model; test rows are not seen. `linear` is
for features of any kind, also those of a language model.
"""
