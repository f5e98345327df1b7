from cloud_service.cli import main

main()
