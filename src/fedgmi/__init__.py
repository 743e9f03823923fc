"""fedgmi: what is a federation made of, and what model does each member deserve?"""

__version__ = "0.1.0"
