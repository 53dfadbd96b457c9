"""First-party plugins. Each module uses ortforge.api alone, as a third party's would."""
