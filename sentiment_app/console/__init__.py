"""The console: web pages for people, under /console."""
