"""What all tests run under.

A shell that starts the tests in the background lets them ignore Ctrl-C; what they stop must not. And no test
fails because the machine is busy.
"""

import signal

from hypothesis import HealthCheck, settings

signal.signal(signal.SIGINT, signal.default_int_handler)
settings.register_profile("any machine", deadline=None, suppress_health_check=[
    HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
settings.load_profile("any machine")
