"""Questions about pictures that vision-language models are measured by, as published."""
