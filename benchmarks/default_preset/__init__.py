"""What `PopDescent()` is worth: models at equal gradient steps, beside what one would do instead.

tasks.py       the networks and data
contestants.py who takes part: plain training, other searches, the presets
candidates.py  variants of the default that were tried, as switches of the strategy
tables.py      Markdown from the JSON file alone
__main__.py    runs what has no result yet
sensitivity.py population size, starting rate, batches an iteration; with a picture each
"""
