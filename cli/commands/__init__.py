"""The words of each command: options, help, and which function does the work.

Commands load what they use when they run, so that --help answers at once. The work itself is not
here.
"""
