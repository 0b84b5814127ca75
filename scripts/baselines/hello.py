"""The upper bound: a bare Flask application that answers without doing anything."""

from flask import Flask

app = Flask("hello")


@app.route("/", methods=["GET", "POST"])
def hello() -> str:
    """Answer."""
    return "hello"
