"""`python -m mmjax.synthesize`: see `mmjax.synthesize.command`."""

from mmjax.synthesize.command import start

if __name__ == "__main__":
    start()
