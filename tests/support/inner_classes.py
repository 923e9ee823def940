"""Classes of tests that are run within a test: see ``inner_tests``."""

from __future__ import annotations

TEST_CASES = """
    import unittest
    from django.test import SimpleTestCase, TestCase, override_settings
    from django_leader import is_leader
    from django_leader.testing import following, leading

    class Bare(SimpleTestCase):
        def test_no_other_class_is_within(self):
            assert not is_leader()

    @leading()
    class Case(SimpleTestCase):
        @classmethod
        def setUpClass(cls):
            super().setUpClass()
            cls.led = is_leader()
            cls.addClassCleanup(cls.cleanup)

        @classmethod
        def tearDownClass(cls):
            assert is_leader()
            super().tearDownClass()

        @classmethod
        def cleanup(cls):
            assert is_leader()

        def setUp(self):
            assert self.led and is_leader()
            self.addCleanup(lambda: self.assertTrue(is_leader()))

        def tearDown(self):
            assert is_leader()

        def test_plain(self):
            assert is_leader()

        async def test_coroutine(self):
            assert is_leader()

        @following()
        async def test_the_innermost_counts(self):
            assert not is_leader()

    class Inherits(Case):
        @classmethod
        def setUpClass(cls):
            assert is_leader()
            super().setUpClass()

    @following()
    class LastWord(Case):
        def setUp(self):
            pass

        def tearDown(self):
            pass

        @classmethod
        def tearDownClass(cls):
            super(Case, cls).tearDownClass()

        @classmethod
        def cleanup(cls):
            assert not is_leader()

        def test_plain(self):
            assert not is_leader()

        test_coroutine = test_plain

    @leading()
    class Database(TestCase):
        @classmethod
        def setUpTestData(cls):
            cls.led = is_leader()

        def test_data(self):
            assert self.led and is_leader()

    @leading()
    class Python(unittest.TestCase):
        def test_python(self):
            assert is_leader()

    class Hasty(Python):
        @classmethod
        def setUpClass(cls):
            "It forgets those above it."
            cls.led = is_leader()

        def setUp(self):
            assert self.led and is_leader()

    @leading()
    @following()
    class Stacked(SimpleTestCase):
        def test_the_innermost_counts(self):
            assert not is_leader()

    @leading()
    class Mixin:
        def test_mixed_in(self):
            assert is_leader()

    class First(Mixin, SimpleTestCase):
        def test_own(self):
            assert is_leader()

    class Second(SimpleTestCase, Mixin):
        def test_own(self):
            assert is_leader()

    @leading("jobs")
    @override_settings(LEADER_ELECTIONS={"default": {}, "jobs": {}})
    class Settings(SimpleTestCase):
        def test_it_counts_for_an_election_of_the_class(self):
            assert is_leader("jobs") and not is_leader()

    @override_settings(LEADER_ELECTIONS={"default": {}, "jobs": {}})
    @leading("jobs")
    class SettingsAbove(Settings):
        pass

    class Zero(SimpleTestCase):
        def test_nothing_is_left(self):
            assert not is_leader()
"""
TEST_CASES_COUNT = 1 + 3 + 3 + 3 + 1 + 1 + 1 + 1 + 2 + 2 + 1 + 1 + 1

ISOLATED = """

    @leading()
    class Isolated(unittest.IsolatedAsyncioTestCase):
        async def asyncSetUp(self):
            assert is_leader()

        async def test_isolated(self):
            assert is_leader()
"""  # which cannot be pickled, so Django runs none in parallel


PLAIN = """
    import pytest
    from django_leader import is_leader
    from django_leader.testing import following, leading

    def test_before():
        assert not is_leader()

    @leading()
    class TestPlain:
        @classmethod
        def setup_class(cls):
            cls.led = is_leader()

        def teardown_class(cls):
            assert is_leader()

        def setup_method(self):
            assert is_leader()

        @pytest.fixture(autouse=True)
        def fixture(self):
            assert is_leader()
            yield
            assert is_leader()

        def test_plain(self):
            assert is_leader() and self.led

        @pytest.mark.parametrize("a", [1, 2])
        def test_parameters(self, a):
            assert is_leader()

        @following()
        def test_the_innermost_counts(self):
            assert not is_leader()

        @staticmethod
        def test_static():
            assert is_leader()

    class TestInherits(TestPlain):
        def setup_class(cls):
            "It forgets those above it."
            cls.led = is_leader()

        def test_own(self):
            assert is_leader() and self.led

    class TestTearDown(TestPlain):
        @staticmethod
        def teardown_class():
            assert is_leader()

    @leading()
    class TestOuter:
        class TestInner:
            def test_inner(self):
                assert is_leader()

        @following()
        class TestOther:
            def test_other(self):
                assert not is_leader()

        @classmethod
        def setup_class(cls):
            assert is_leader()

        def test_outer(self):
            assert is_leader()

    class Base:
        def setup_class(cls):
            cls.led = is_leader()

    @leading()
    class TestBased(Base):
        def test_plain(self):
            assert self.led

    @leading()
    class TestFails:
        def setup_class(cls):
            raise ZeroDivisionError

        def test_plain(self):
            pass

    def test_nothing_is_left():
        assert not is_leader()

    @pytest.fixture
    @leading()
    def led():
        yield is_leader()
        assert is_leader()

    def test_a_fixture_that_yields(led):
        assert led and is_leader()

    @leading()
    @pytest.mark.parametrize("a", [1, 2])
    def test_marks_and_fixtures_of_a_function(a, tmp_path):
        assert is_leader() and tmp_path
"""
