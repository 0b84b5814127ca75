"""The application that gunicorn serves and the flask command finds."""

import sys

from sentiment_app.app import create_app
from sentiment_app.config import ConfigError

try:
    app = create_app()
except ConfigError as error:
    sys.exit(f"Error: {error}")
