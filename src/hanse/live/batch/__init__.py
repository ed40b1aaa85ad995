"""Batches: files of many requests that may wait, run in spare room, each answered once.

| module | one job |
|---|---|
| `values` | files and batches as values, and as OpenAI's clients see them |
| `lines` | the lines of an input file: reading, checking, what is wrong where |
| `upload` | a multipart form to disk, as it comes |
| `store` | files and states on this site's disk |
| `commits` | the stream in which each line is committed once |
| `access` | who may see what, by the routing table in force |
| `asking` | HTTP to the site's own gateway and to peers' hop ports |
| `work`, `runner` | a batch being worked on; which line is sent next, and what its answer means |
| `follow` | the schedule of the league: what may begin now, what the controller is told |
| `keeper` | what becomes of a batch: from validating to its last state |
| `owners`, `standby` | who owns a batch of two homes; the other home's copy and its turn |
| `drops`, `pauses` | deleting copies of files that were deleted; when to try again |
| `api` | the paths of `/v1/files` and `/v1/batches` |

One process a site (`python -m hanse.live.batch`). It decides nothing about law or routing that the gateway does not decide again: lines
enter through the site's own gateway, and only the gateway talks to other sites' engines.
"""
