"""Knowledge bases: documents in, chunks out."""
