"""The embedded model in the reader's browser: what is exported when the book is built, and the widgets' HTML."""
