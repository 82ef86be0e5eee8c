"""Keep stores: back the local one up, bring it back, take it to a newer MLflow or to a server."""
