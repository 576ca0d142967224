"""A private doorbell camera that knows its household and lets nothing out."""

__version__ = "0.1.0"
