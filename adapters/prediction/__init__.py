"""Items → answers, whichever model file answers them."""
