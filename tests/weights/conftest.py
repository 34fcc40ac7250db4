"""What tests of encoders and of their weights share."""

from tests.encoders.conftest import asset as asset
from tests.encoders.conftest import encode as encode
