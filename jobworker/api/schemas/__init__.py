"""Schemas of bodies: request schemas validate; response schemas only document, because serializers write responses."""
