"""HTTP API: endpoints, request and response schemas, and error responses. Use cases are in `services`."""
