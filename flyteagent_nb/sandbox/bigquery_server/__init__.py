"""bqemulator, made to do what BigQuery does with a connector's jobs. It runs where bqemulator is installed, and imports nothing of ours.

bqemulator answers a query when it has ended, and nobody else until then; a cancel does nothing, and what it did not expect is HTTP 500,
which Google's client repeats for ten minutes. Here it works on a thread of its own, behind a door that keeps the jobs: a query runs
behind its id, can be asked for and cancelled, and what went wrong is told in words. Only who has the token is let in. A table is made
of a file by one more address, TABLES, and is there in every project that a query names.
"""

TABLES = "/sandbox/tables"
"""Where a table is made: a POST with ``path``, ``format``, ``project``, ``dataset``, ``table``; answered with ``rows`` or ``error``."""

TOKEN_FILE = "token"
"""The file with the token, in the folder that the server starts in."""

PROJECT = "local"
"""The project of tables that were loaded without one; a query in any other project finds a copy there."""
