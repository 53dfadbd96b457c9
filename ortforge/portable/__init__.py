"""What the orchestrator, the verdict, reports and plugins share: plain facts, standard library only."""
