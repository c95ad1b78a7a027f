"""Makes retrieval samples: long texts with statements in them, and questions about these, exact to the token.

    kind, seed ──► words of a sample: announcement, statements, questions, answers       drafts (phrases, made_up)
                        │
    a text source ──► pool of tokens, or made-up filler                                  haystack
                        │
                   tokens around the document: plain text, or a conversation             prompt_format
                        │
                   sample of an exact length, with the statements in the document        assembly (token_ids)

`passkey` makes the samples of the passkey task, whose wording never changes.
"""
