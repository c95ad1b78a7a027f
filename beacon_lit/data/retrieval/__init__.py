"""Samples that ask for something said far before, made from a seed and exact to the token.

`kinds` words what is told and asked, `haystack` holds the text it is hidden in, `frame` the prompt around it, and
`sample` puts the tokens together.
"""
