"""What every environment has to keep, checked through a client."""

from .checks import CHECKS, Check, run_check, run_checks
from .differences import first_difference
from .ending import resources
from .schemas import faults_of_schema, faults_of_value
from .subject import Subject, subject_of

__all__ = [
    "CHECKS",
    "Check",
    "Subject",
    "faults_of_schema",
    "faults_of_value",
    "first_difference",
    "resources",
    "run_check",
    "run_checks",
    "subject_of",
]
