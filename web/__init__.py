"""The doors: the HTTP surface, and the page. The only package that knows fastapi."""
