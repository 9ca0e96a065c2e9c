"""Sans-I/O state machines of both sides: frames in, events out.

Nothing here reads a clock, a socket or a random source; nothing here is async.
docs/protocol.md is the specification; comments cite its sections.
"""

from .channels import COUNTED, Channel, Request, Work
from .client import ClientEvent, ClientProtocol, ClientSession, decode_error, error_of
from .counting import Counts
from .framing import Inbox, Outbox
from .server import ServerProtocol
from .sessions import Session, Watcher, check_observed
from .table import SessionTable
from .tables import OUTCOMES, PERMITS, RECEIVES, Outcome, Phase, Role, Stage

__all__ = [
    "COUNTED",
    "OUTCOMES",
    "PERMITS",
    "RECEIVES",
    "Channel",
    "ClientEvent",
    "ClientProtocol",
    "ClientSession",
    "Counts",
    "Inbox",
    "Outbox",
    "Outcome",
    "Phase",
    "Request",
    "Role",
    "ServerProtocol",
    "Session",
    "SessionTable",
    "Stage",
    "Watcher",
    "Work",
    "check_observed",
    "decode_error",
    "error_of",
]
