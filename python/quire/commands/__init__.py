"""The commands of the command line, each in a module: its arguments, and what it does.

A module imports what it needs only when its command runs, as all of them are asked for arguments.
"""
