"""A support desk for many companies, on FastAPI and PostgreSQL: an example of an application."""
