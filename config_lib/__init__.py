"""The mechanism of configs: names of objects, values, sections, JSON, flags. Experiments themselves are in `configs`.

A class or function of a trusted package (`names.TRUSTED`) needs no registration here: a config says `spec(MyClass)`.
If you rename an object or a key that saved configs hold, add the old name to `old_names`.
"""
