"""How long hypothesis looks: seconds in the suite, longer by `make fuzz`."""

from hypothesis import settings

settings.register_profile("suite", max_examples=200, deadline=None)
settings.register_profile("fuzz", max_examples=20_000, deadline=None)
settings.load_profile("suite")
