from django.core.asgi import get_asgi_application

from django_leader.asgi import handing_over

application = get_asgi_application()
handed_over = handing_over(application)
