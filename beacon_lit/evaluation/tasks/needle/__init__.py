"""Needles in a haystack: facts hidden in long text, and questions about them at its end.

`facts` words the needles, `haystack` reads the text, `hiding` puts them together exact to the token, `grading` grades
answers. The tasks are `single` (one needle), `several` (one question about all needles) and `turns` (one question per
turn over one cache); `base` has what they share.
"""
