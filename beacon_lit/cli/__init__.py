"""The commands, one file each: compose a config, instantiate what it names, run it, return metrics.

Importing a command registers the resolvers that the files of conf/ use.
"""

from beacon_lit.cli import resolvers

resolvers.register()
