"""How stages run: recipe, plan, tasks on Ray or inline, the ledger that makes runs resumable, and the files they leave."""
