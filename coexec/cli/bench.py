"""bench"""
HELP="x"
EXAMPLES=()
def arguments(parser): pass
def execute(options, console): return 0
