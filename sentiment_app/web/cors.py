"""Cross-Origin Resource Sharing: the origins whose pages may call the API (https://fetch.spec.whatwg.org/#http-cors-protocol).

No origin may by default. The API reads no cookies, so a page can only use a token that it was given; credentials are
never allowed. The console is not concerned: it refuses writes from other origins.
"""

from flask import Flask, Response, request

MAX_AGE_SECONDS = 3600
METHODS = "GET, POST, PATCH, DELETE"
REQUEST_HEADERS = "Authorization, Content-Type, Content-Encoding, Idempotency-Key, Last-Event-ID, Prefer"
RESPONSE_HEADERS = (
    "Location, Retry-After, X-Request-ID, RateLimit, RateLimit-Policy, Preference-Applied, Content-Disposition, "
    "WWW-Authenticate"
)


def init_app(app: Flask, origins: frozenset[str], prefix: str) -> None:
    """Allow pages of these origins to call the paths below a prefix."""
    if not origins:
        return

    def is_allowed() -> bool:
        return request.path.startswith(prefix) and request.headers.get("Origin") in origins

    def answer_preflight() -> Response | None:
        """A browser asks whether it may send a request. It sends no token with the question."""
        if request.method != "OPTIONS" or "Access-Control-Request-Method" not in request.headers or not is_allowed():
            return None
        answer = Response(status=204)
        answer.headers["Access-Control-Allow-Methods"] = METHODS
        answer.headers["Access-Control-Allow-Headers"] = REQUEST_HEADERS
        answer.headers["Access-Control-Max-Age"] = str(MAX_AGE_SECONDS)
        return answer

    def add_headers(response: Response) -> Response:
        if request.path.startswith(prefix):
            response.vary.add("Origin")
        if is_allowed():
            response.headers["Access-Control-Allow-Origin"] = request.headers["Origin"]
            response.headers["Access-Control-Expose-Headers"] = RESPONSE_HEADERS
        return response

    app.before_request(answer_preflight)
    app.after_request(add_headers)
