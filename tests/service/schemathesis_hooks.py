"""What Schemathesis does not know by itself: a piece of an upload is bytes."""

import schemathesis


@schemathesis.serializer("application/partial-upload")
def as_bytes(_context, value):
    return value if isinstance(value, bytes) else str(value).encode()
