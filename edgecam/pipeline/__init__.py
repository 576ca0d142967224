"""The stages put together: the live path, enrolment, and what is asked of the store."""
