"""Benchmarks: ours, the peers and the limit, side by side in one run.

Run them with ``./scripts/bench [name ...] [--quick]``. Each benchmark is a module with a ``run``.
The limit is the least code that still does the job. What they share:

- `report`: tables, and values held against their targets.
- `rounds`: cases take turns, so that what else the machine does meets all of them alike.
- `world`: an Entra that answers what was prepared, and APIs, in a process of their own.
- `canned`, `load`, `web`: what runs in other processes, which `processes` starts and stops.
- `calls`: ASGI apps called in this process; `peers`: what has to be there to be measured.
- `dashboards`, `web_apps`: what `dashboard` and `crowd`, and `end_to_end`, measure.
"""
