"""Needles in a haystack: facts hidden in long text and asked for behind it.

`facts` words them, `haystack` holds the text, `prompt` hides them in it exact to the token, `grading` grades answers;
the tasks are `single` (one needle), `several` (one question for all) and `turns` (a question per turn, one cache).
"""
