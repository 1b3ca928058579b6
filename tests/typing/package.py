"""What both type checkers must agree on; read by them, never run."""

from typing import assert_type

import tenantry

assert_type(tenantry.__name__, str)
