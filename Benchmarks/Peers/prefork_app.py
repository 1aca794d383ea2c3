# SPDX-License-Identifier: Apache-2.0
"""What gunicorn serves: prefork_app:application."""

BODY = b"hello\n"
HEADERS = [("Content-Type", "text/plain"), ("Content-Length", "6")]


def application(environment, start_response):
    start_response("200 OK", HEADERS)
    return [BODY]
