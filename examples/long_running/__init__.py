"""Long-running work: a job goes on as its user, long after the user's token has ended.

Run it with ``python -m examples.long_running``. What each module shows:

- `api`: the web API, which starts a session while the user's request is at hand, and a job; with
  `worker`, which resumes the session in another process, this is the part to copy from.
- `wiring`: what both are made of, from environment variables.
- `jobs`: what is known of each job, and whose it is.
- `partner`: the API that is called, protected by its own `OnBehalfOfMiddleware`.
- `play`: runs all of it on a real Redis, API and worker as processes of their own, with FakeEntra
  in the place of Entra ID, and checks what it claims; `report` prints it, and `processes` starts
  and ends them.

The queue is taskiq's, on Redis: it is typed, made for asyncio, maintained, and takes redis-py 8,
where saq and arq demand an older one.
"""
