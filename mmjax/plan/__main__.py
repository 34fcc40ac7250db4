"""`python -m mmjax.plan`."""

from mmjax.plan import command

if __name__ == "__main__":
    command.start()
