"""A conversation with a beacon model: a text is read into a cache once, then asked about as often as needed.

    messages ─► template ─► text ─► tokenizing ─► token ids ─► reading ─► cache ─► answering ─► answer

`chat` is the public class over all of these, `saved` keeps a chat in a folder, `terminal` shows a chat on a terminal.
"""

from beacon_lit.chat.chat import BeaconChat

__all__ = ["BeaconChat"]
