from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("jobs", "0002_report")]
    operations = [
        migrations.AddField("run", "scheduled_for", models.DateTimeField(null=True)),
    ]
