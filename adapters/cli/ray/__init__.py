"""`predict --ray`: a bulk run on Ray Data, over the processes of this machine or the nodes of a cluster."""
