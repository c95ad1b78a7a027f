"""An HTTP server that speaks OpenAI's API: documents are compressed once, and requests are answered from their caches.

    request ─► app ─► queue ─► worker: prompt ─► longest known prefix ─► read the rest ─► a row of the batch ─► answer

app         routes: HTTP on one side, jobs and their events on the other
schemas     what requests may contain
replies     what responses contain
errors      errors in OpenAI's schema
inbox       events of a job, from the worker's thread to the event loop
worker      the thread that runs the model, and the queue before it
compress    the job of an upload: a document -> a cache file
answer      the job of a question: a prompt -> text
prompts     messages or plain text -> the text that the model reads
sampling    logits -> the next token
wording     token ids -> text, piece by piece, up to a stop sequence
documents   documents and their caches on disk
prefixes    caches of the beginnings of earlier prompts, in memory
service     what all jobs share
metrics     counts and times, for Prometheus
"""
